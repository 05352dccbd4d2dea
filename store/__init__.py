"""What processes share: leases, answers, counters. Redis, or this process's memory, behind one interface."""
