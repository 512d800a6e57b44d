"""The hot path: one pipeline that every model call goes through."""
