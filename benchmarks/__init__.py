"""Speed, side by side with the pipeline anyone would write first. Each prints a table and writes a JSON record."""
