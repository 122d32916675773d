"""The API's description, `GET /openapi.json`. Each fact has one place, and tests hold it against the running relay:

description  puts it together from the app's own routes and their docstrings
operations   the table: what each route takes, answers and refuses; operation.py has its words
schemas      the types of requests and answers, by msgspec itself
meanings     a sentence for each code, field and header; docs/api.md has the same ones
"""
