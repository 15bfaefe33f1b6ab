"""`make bench`: every benchmark, one after the other."""

from tests.bench import planner, programmer

planner.run()
programmer.run()
