"""The import verb: published weights become this project's files."""
