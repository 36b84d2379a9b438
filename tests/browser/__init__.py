"""Tests in a real browser. A package, so that its conftest and that of the other tests are two modules."""
