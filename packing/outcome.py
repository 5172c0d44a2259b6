"""What a refresh came to, in the words of commands, tasks, notices and the page."""

from __future__ import annotations

REFRESHED = "the packed dataset was refreshed"
RETURNED = "an earlier packed dataset is current again"
UNCHANGED = "nothing changed"
