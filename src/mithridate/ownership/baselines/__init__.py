"""Other ways to mark a data set, to compare with: canaries, backdoor watermarks, radioactive data, a flawed test."""
