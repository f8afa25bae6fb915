"""The dashboard's pages. Thin scripts; what they share stands in the modules whose name begins with an underscore."""
