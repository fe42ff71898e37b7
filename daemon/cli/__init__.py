"""What a person at this machine uses: the command line and what its commands do."""
