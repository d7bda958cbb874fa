"""`python -m segcli`, which is also what torchrun starts."""

from segcli.commands.app import main

if __name__ == "__main__":
    main()
