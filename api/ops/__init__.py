"""What those who run Walnut look at."""
