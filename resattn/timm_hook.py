"""Makes ``timm.create_model("resattn8")`` work after ``import resattn`` without paying for timm, whose import takes seconds.

timm has no entry points and its registry exists only once it is imported. So the names are entered at once where it is, and else
as the last act of its import, whoever asks for it.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_now_or_later() -> None:
    """Enter the networks of :mod:`resattn.models.hub` into timm's registry: now if timm is imported, else when it will be."""
    if sys.modules.get("timm") is not None:
        _register()
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


def _register() -> None:
    from resattn.models.hub import register

    register()


class _AfterTimm:
    """Finds timm where the other finders do, and lets its loader register once the package has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register
        return spec
