"""How the tables came to be, step by step. A step that was released is never changed: a new one is added behind it.

Plain SQL that SQLite and PostgreSQL read alike. Tables of ``APPEND_ONLY`` refuse changes from their step on.
"""

from __future__ import annotations

STEP_1 = """
CREATE TABLE annotator (annotator_id TEXT NOT NULL, kind TEXT NOT NULL, identity TEXT NOT NULL, meta TEXT NOT NULL, at DOUBLE
    PRECISION NOT NULL, PRIMARY KEY (annotator_id));
CREATE TABLE audit (seq BIGINT NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL, at DOUBLE PRECISION NOT
    NULL, PRIMARY KEY (seq));
CREATE TABLE campaign (name TEXT NOT NULL, wanted BIGINT NOT NULL, kind TEXT NOT NULL, protocol TEXT NOT NULL, guideline TEXT NOT
    NULL, gold_share DOUBLE PRECISION NOT NULL, repeat_share DOUBLE PRECISION NOT NULL, lease_seconds DOUBLE PRECISION NOT NULL,
    paused BIGINT NOT NULL, seed BIGINT NOT NULL, settings TEXT NOT NULL, changed BIGINT NOT NULL, at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (name));
CREATE TABLE candidate (hash TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (hash));
CREATE TABLE guideline (version TEXT NOT NULL, text TEXT NOT NULL, weights TEXT NOT NULL, at DOUBLE PRECISION NOT NULL, PRIMARY
    KEY (version));
CREATE TABLE invitation (digest TEXT NOT NULL, role TEXT NOT NULL, campaign TEXT NOT NULL, uses_left BIGINT NOT NULL, until DOUBLE
    PRECISION NOT NULL, who TEXT NOT NULL, PRIMARY KEY (digest));
CREATE TABLE media (digest TEXT NOT NULL, path TEXT NOT NULL, mime TEXT NOT NULL, PRIMARY KEY (digest));
CREATE TABLE prompt (hash TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (hash));
CREATE TABLE retraction (seq BIGINT NOT NULL, annotator TEXT NOT NULL, event_id TEXT NOT NULL, why TEXT NOT NULL, who TEXT NOT
    NULL, at DOUBLE PRECISION NOT NULL, PRIMARY KEY (seq));
CREATE INDEX retraction_person ON retraction (annotator);
CREATE TABLE setting (name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name));
CREATE TABLE account (name TEXT NOT NULL, annotator TEXT NOT NULL, role TEXT NOT NULL, salt TEXT NOT NULL, password TEXT NOT NULL,
    disabled BIGINT NOT NULL, at DOUBLE PRECISION NOT NULL, PRIMARY KEY (name), FOREIGN KEY(annotator) REFERENCES annotator
    (annotator_id));
CREATE UNIQUE INDEX account_annotator ON account (annotator);
CREATE TABLE member (campaign TEXT NOT NULL, annotator TEXT NOT NULL, state TEXT NOT NULL, given BIGINT NOT NULL, seen BIGINT NOT
    NULL, cursor_urgency DOUBLE PRECISION NOT NULL, cursor_position BIGINT NOT NULL, PRIMARY KEY (campaign, annotator), FOREIGN
    KEY(campaign) REFERENCES campaign (name), FOREIGN KEY(annotator) REFERENCES annotator (annotator_id));
CREATE TABLE task (task_id TEXT NOT NULL, campaign TEXT NOT NULL, role TEXT NOT NULL, kind TEXT NOT NULL, protocol TEXT NOT NULL,
    guideline TEXT NOT NULL, prompt TEXT NOT NULL, candidates TEXT NOT NULL, expected TEXT NOT NULL, source_id TEXT NOT NULL, meta
    TEXT NOT NULL, wanted BIGINT NOT NULL, urgency DOUBLE PRECISION NOT NULL, position BIGINT NOT NULL, open BIGINT NOT NULL, done
    BIGINT NOT NULL, leased BIGINT NOT NULL, dispute BIGINT NOT NULL, PRIMARY KEY (task_id), FOREIGN KEY(campaign) REFERENCES campaign
    (name), FOREIGN KEY(prompt) REFERENCES prompt (hash));
CREATE INDEX task_dispute ON task (campaign, dispute, position);
CREATE INDEX task_next ON task (campaign, role, open, urgency, position);
CREATE TABLE judgement (event_id TEXT NOT NULL, seq BIGINT NOT NULL, task TEXT NOT NULL, annotator TEXT NOT NULL, purpose TEXT NOT
    NULL, repeat BIGINT NOT NULL, campaign TEXT NOT NULL, digest TEXT NOT NULL, body TEXT NOT NULL, replaces TEXT NOT NULL, late
    BIGINT NOT NULL, at DOUBLE PRECISION NOT NULL, PRIMARY KEY (event_id), FOREIGN KEY(task) REFERENCES task (task_id), FOREIGN
    KEY(annotator) REFERENCES annotator (annotator_id), FOREIGN KEY(campaign) REFERENCES campaign (name));
CREATE INDEX judgement_person ON judgement (annotator, campaign);
CREATE UNIQUE INDEX judgement_seq ON judgement (seq);
CREATE INDEX judgement_task ON judgement (task);
CREATE TABLE lease (task TEXT NOT NULL, annotator TEXT NOT NULL, purpose TEXT NOT NULL, repeat BIGINT NOT NULL, campaign TEXT NOT
    NULL, handle TEXT NOT NULL, slot BIGINT NOT NULL, display_order TEXT NOT NULL, state TEXT NOT NULL, until DOUBLE PRECISION NOT
    NULL, PRIMARY KEY (task, annotator, purpose, repeat), FOREIGN KEY(task) REFERENCES task (task_id), FOREIGN KEY(annotator)
    REFERENCES annotator (annotator_id), FOREIGN KEY(campaign) REFERENCES campaign (name));
CREATE UNIQUE INDEX lease_handle ON lease (handle);
CREATE INDEX lease_person ON lease (annotator, campaign, state, slot);
CREATE INDEX lease_until ON lease (state, until);
CREATE TABLE session (digest TEXT NOT NULL, account TEXT NOT NULL, at DOUBLE PRECISION NOT NULL, until DOUBLE PRECISION NOT NULL,
    revoked BIGINT NOT NULL, PRIMARY KEY (digest), FOREIGN KEY(account) REFERENCES account (name));
CREATE INDEX session_account ON session (account);
CREATE TABLE head (task TEXT NOT NULL, annotator TEXT NOT NULL, purpose TEXT NOT NULL, repeat BIGINT NOT NULL, event_id TEXT NOT
    NULL, seq BIGINT NOT NULL, counted BIGINT NOT NULL, retracted BIGINT NOT NULL, PRIMARY KEY (task, annotator, purpose, repeat),
    FOREIGN KEY(task) REFERENCES task (task_id), FOREIGN KEY(annotator) REFERENCES annotator (annotator_id), FOREIGN KEY(event_id)
    REFERENCES judgement (event_id));
CREATE INDEX head_event ON head (event_id);
CREATE INDEX head_person ON head (annotator);
"""

STEP_2 = """
CREATE TABLE artefact (kind TEXT NOT NULL, id TEXT NOT NULL, parent TEXT NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (kind, id,
    parent));
CREATE INDEX artefact_parent ON artefact (parent);
CREATE TABLE snapshot (id TEXT NOT NULL, rows TEXT NOT NULL, query TEXT NOT NULL, count BIGINT NOT NULL, at DOUBLE PRECISION NOT
    NULL, PRIMARY KEY (id));
"""

STEP_3 = """
ALTER TABLE task ADD COLUMN ease DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN by_judge BIGINT NOT NULL DEFAULT 0;
ALTER TABLE member ADD COLUMN cursor_ease DOUBLE PRECISION NOT NULL DEFAULT 0;
DROP INDEX task_next;
CREATE INDEX task_next ON task (campaign, role, open, urgency, ease, position);
CREATE TABLE unjudged (task TEXT NOT NULL, annotator TEXT NOT NULL, error TEXT NOT NULL, at DOUBLE PRECISION NOT NULL, PRIMARY KEY
    (task, annotator), FOREIGN KEY(task) REFERENCES task (task_id), FOREIGN KEY(annotator) REFERENCES annotator (annotator_id));
"""

STEPS: tuple[str, ...] = (STEP_1, STEP_2, STEP_3)
APPEND_ONLY: tuple[tuple[str, ...], ...] = (("judgement", "retraction", "audit"), ("snapshot",), ())
