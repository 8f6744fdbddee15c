"""The controller process: Kopf's watches fill a queue of keys; gather, decide, execute."""
