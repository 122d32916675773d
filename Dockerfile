# docker build -t sluice . && docker run --rm -p 8000:8000 --env-file .env sluice
FROM python:3.13-slim

WORKDIR /srv/sluice

# Alone, so that only a change of what is needed installs it again.
COPY requirements.txt ./
RUN ["pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--require-hashes", "-r", "requirements.txt"]

COPY app.py gunicorn.conf.py ./
COPY streaming streaming
COPY static static
COPY templates templates
# Now, because nothing can be written later; without it every start would compile anew.
RUN ["python", "-m", "compileall", "-q", "app.py", "streaming"]

# A number, so that Kubernetes sees that it is not root.
USER 10001:10001
ENV PORT=8000 PYTHONUNBUFFERED=1
EXPOSE 8000
STOPSIGNAL SIGTERM
# Without a shell, which would not pass the signal on.
CMD ["gunicorn", "app:app"]
