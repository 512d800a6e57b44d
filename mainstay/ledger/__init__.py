"""Calls that did happen, append-only: journal, ingest, query, counters."""
