"""Where jobs run: `local` starts a fresh process for each on this machine."""
