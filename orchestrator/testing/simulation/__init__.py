"""A whole deployment under one simulated clock: processes, network, disks, schedules, sweep and scenarios."""
