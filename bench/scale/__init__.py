"""How cost grows: one quantity at a time from one to more than a mesh has, and what breaks first."""
