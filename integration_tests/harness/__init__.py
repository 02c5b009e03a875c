"""What the scripts of the end-to-end harness share."""
