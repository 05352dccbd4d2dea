"""What processes know together: leases, answers, counters. Redis, or this process's memory, behind one interface."""
