"""What the server that forks model processes imports last: from here on it hears signals again.

It is started with them held back, since it imports networks for seconds, in which Ctrl-C would end it with a traceback.
One that has come meanwhile was meant for whoever started it, and is dropped. Anybody else's process that it forks hears
signals as ever. Imported anywhere else this does nothing.
"""

from __future__ import annotations

import signal

from lsb.translation.model_process import SIGNALS

_held_back = set(SIGNALS) & signal.pthread_sigmask(signal.SIG_BLOCK, ())
for _number in _held_back:
    _before = signal.signal(_number, signal.SIG_IGN)  # which forgets one that waits
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {_number})
    signal.signal(_number, _before)
