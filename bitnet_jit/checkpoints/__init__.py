"""Load, save and publish models: folders of files, whatever their format."""
