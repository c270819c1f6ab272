from alignvis.cli import main

main()
