"""Where logs live: memory, behind the contract in relay/store.py."""
