"""What people use: send by session id, resume after a crash, settle or abort what is in doubt, look back.

agent.py    StatefulAgentLoop: every verb
intake.py   an input's way: new, repeated, queued behind somebody else's turn; and how a turn is waited for
work.py     the sessions this loop works on at the moment, each in a task of its own
stream.py   a turn as it happens
upkeep.py   what is done to whole sessions: abort, close, fork, erase, prune
sync.py     the same verbs for callers without an event loop
"""

from power_agent.loop.agent import StatefulAgentLoop

__all__ = ["StatefulAgentLoop"]
