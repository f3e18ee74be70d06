"""Process entry point of the job: `python entrypoint.py --help`."""

from job.process import main

if __name__ == "__main__":
    main()
