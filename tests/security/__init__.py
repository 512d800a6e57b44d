"""What an attacker tries, a class of attack a file, against the packaged product."""
