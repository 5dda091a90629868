"""Load, save and publish models, whatever their format; formats/ is the border to the formats."""
