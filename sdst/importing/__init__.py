"""Behind `sdst import`: other programs' annotations of videos as a dataset of sdst."""
