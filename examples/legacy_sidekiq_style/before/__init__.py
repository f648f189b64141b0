"""The shop as it is: jobs on Celery, each written as if no process ever died in the middle."""
