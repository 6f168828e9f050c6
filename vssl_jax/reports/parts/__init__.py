"""The parts of the page: each turns what was read into figures, tables and sentences."""
