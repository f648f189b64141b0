"""The explorer: the real runtime, journal and sweeper under random schedules that a seed replays exactly.

Threads stand for processes, and one of them runs at a time: at every operation of the journal and around every effect and
probe, the schedule may go on with another. Messages are lost, doubled and put off; processes are killed, or declared dead
while they go on; a person interferes. In the end everything is compared with a bank that saw every effect.
"""
