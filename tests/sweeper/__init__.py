"""The sweeper on real journals, with the time passed in and an engine that notes what is sent."""
