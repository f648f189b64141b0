"""The shop as it is: jobs on RQ, each written as if no process ever died in the middle."""
