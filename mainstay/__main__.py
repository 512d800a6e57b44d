"""``python -m mainstay``: the command line, and the two processes that the supervisor starts."""

import sys


def main() -> int:
    """Run the process or command that the first argument names; each imports only what it needs."""
    role = sys.argv[1] if len(sys.argv) > 1 else ""
    if role == "gateway":
        from mainstay import gateway_process

        return gateway_process.main(sys.argv[2:])
    if role == "control":
        from mainstay import control_process

        return control_process.main(sys.argv[2:])
    from mainstay import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
