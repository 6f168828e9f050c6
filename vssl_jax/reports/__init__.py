"""Writes one HTML page that shows runs; see `report`.

The page is made of files alone: what training, `evaluate` and localization have written. So it
needs no data, no checkpoint and no device. `folders` reads, one module for each part of the page
turns what was read into figures, tables and sentences, and `page` puts them into the templates.
"""
