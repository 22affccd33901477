-- The log, and what keeps it a log.
--
--   session   one row each: where it stands (head, tip), who holds it until when (epoch, owner, deadline), where it branched
--   event     the facts. Append-only: seq without gaps, chained hashes, one outcome per call, one input per key
--   blob      large content, per session, named by its SHA-256
--   snapshot  cached states; may be deleted at any time
--   kind      the names of the numbers in event.kind, so that the file explains itself
--   log, sessions, pending, usage            views for people and for listings
--
-- The triggers hold against everybody who can run SQL without dropping them: no UPDATE, no DELETE, no REPLACE by any key, no
-- gap, no stale epoch, no takeover of a living lease, no second outcome, nothing after an erasure. Whoever rewrites the file
-- itself is found out by the chain of hashes (verify).
--
-- Bodies are the exact JSON text that was hashed. Numbers of kinds never change and are never reused.

CREATE TABLE session (
    id       INTEGER PRIMARY KEY CHECK (id > 0),
    name     TEXT    NOT NULL UNIQUE,
    head     INTEGER NOT NULL,              -- the last seq
    tip      BLOB    NOT NULL,              -- its hash
    epoch    INTEGER NOT NULL,
    owner    TEXT,                          -- NULL: released
    deadline INTEGER NOT NULL,              -- of the lease, in milliseconds since 1970
    base     INTEGER NOT NULL DEFAULT 0,    -- a fork begins behind this seq of its parent
    parent   INTEGER REFERENCES session (id),
    erased   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE event (
    pos     INTEGER PRIMARY KEY,            -- order of commits over all sessions, without gaps
    session INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    epoch   INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    kind    INTEGER NOT NULL,
    call    TEXT,                           -- of call events; stands in the body too
    key     TEXT,                           -- of inputs; stands in the body too
    body    TEXT,                           -- NULL: erased
    digest  BLOB,                           -- of an erased body
    hash    BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX event_place ON event (session, seq);
CREATE UNIQUE INDEX event_key ON event (session, key) WHERE key IS NOT NULL;
CREATE UNIQUE INDEX event_outcome ON event (session, call) WHERE kind IN (32, 34, 35, 36);
CREATE INDEX event_turn ON event (session, seq) WHERE kind IN (11, 12);

CREATE TABLE blob (
    id      INTEGER PRIMARY KEY CHECK (id > 0),
    session INTEGER NOT NULL,
    hash    BLOB    NOT NULL,
    content BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX blob_name ON blob (session, hash);

CREATE TABLE snapshot (
    session INTEGER PRIMARY KEY,
    seq     INTEGER NOT NULL,
    fold    INTEGER NOT NULL,
    body    TEXT    NOT NULL
) STRICT;

CREATE TABLE kind (
    code INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

INSERT INTO kind (code, name) VALUES
    (1, 'session.opened'), (2, 'session.configured'), (3, 'session.imported'), (4, 'session.closed'), (5, 'session.erased'),
    (6, 'owner.changed'),
    (10, 'input.received'), (11, 'turn.started'), (12, 'turn.ended'), (13, 'note.added'), (14, 'cancel.asked'),
    (15, 'guard.decided'),
    (20, 'model.asked'), (21, 'model.answered'), (22, 'model.failed'),
    (30, 'call.approval_asked'), (31, 'call.approved'), (32, 'call.denied'), (33, 'call.started'), (34, 'call.succeeded'),
    (35, 'call.failed'), (36, 'call.aborted'), (37, 'call.doubted'), (38, 'call.retried'),
    (40, 'context.compacted');

-- ---------------------------------------------------------------------------------------------------------------- session

-- A session is born empty, at the beginning or at an event of its parent.
CREATE TRIGGER session_born BEFORE INSERT ON session
WHEN NEW.epoch <> 0 OR NEW.erased IS NOT 0 OR NEW.head IS NOT NEW.base
    OR EXISTS (SELECT 1 FROM session WHERE id = NEW.id OR name = NEW.name)
    OR NOT CASE WHEN NEW.parent IS NULL THEN NEW.base = 0 AND NEW.tip = x''
        ELSE EXISTS (SELECT 1 FROM event WHERE session = NEW.parent AND seq = NEW.base AND hash = NEW.tip)
            AND EXISTS (SELECT 1 FROM session WHERE id = NEW.parent AND erased = 0) END
BEGIN SELECT RAISE(ABORT, 'session_born'); END;

-- It moves only with the event that moves it, and never back. Only the lease may change alone: renewed, released, or taken
-- up again by the owner of the last epoch.
CREATE TRIGGER session_moves BEFORE UPDATE ON session
WHEN (NEW.id, NEW.name, NEW.base, NEW.parent) IS NOT (OLD.id, OLD.name, OLD.base, OLD.parent)
    OR NEW.head NOT IN (OLD.head, OLD.head + 1) OR NEW.epoch NOT IN (OLD.epoch, OLD.epoch + 1)
    OR (NEW.owner IS NOT OLD.owner AND NEW.epoch = OLD.epoch)
    OR ((NEW.head, NEW.tip, NEW.epoch) IS NOT (OLD.head, OLD.tip, OLD.epoch) AND NOT EXISTS (
        SELECT 1 FROM event
        WHERE session = NEW.id AND seq = NEW.head AND NEW.head = OLD.head + 1 AND hash = NEW.tip AND epoch = NEW.epoch))
    OR (NEW.erased IS NOT OLD.erased AND (NEW.erased IS NOT 1 OR NOT EXISTS (SELECT 1 FROM event WHERE session = NEW.id AND seq = NEW.head AND kind = 5)))
BEGIN SELECT RAISE(ABORT, 'session_moves'); END;

CREATE TRIGGER session_stays BEFORE DELETE ON session BEGIN SELECT RAISE(ABORT, 'append_only'); END;

-- ------------------------------------------------------------------------------------------------------------------ event

-- REPLACE deletes what is in its way without asking the DELETE trigger, so whatever could be replaced is looked for first.
CREATE TRIGGER event_replaces BEFORE INSERT ON event
WHEN EXISTS (SELECT 1 FROM event WHERE pos = NEW.pos)
    OR EXISTS (SELECT 1 FROM event WHERE session = NEW.session AND seq = NEW.seq)
    OR (NEW.key IS NOT NULL AND EXISTS (SELECT 1 FROM event WHERE session = NEW.session AND key = NEW.key))
    OR (NEW.kind IN (32, 34, 35, 36) AND EXISTS (
        SELECT 1 FROM event WHERE session = NEW.session AND call = NEW.call AND kind IN (32, 34, 35, 36)))
BEGIN SELECT RAISE(ABORT, 'append_only'); END;

CREATE TRIGGER event_incomplete BEFORE INSERT ON event
WHEN NEW.body IS NULL OR NEW.digest IS NOT NULL OR length(NEW.hash) <> 32 OR (NEW.kind BETWEEN 30 AND 39) <> (NEW.call IS NOT NULL)
    OR (NEW.kind BETWEEN 30 AND 39 AND NEW.call IS NOT NEW.body ->> '$.call')
    OR NEW.key IS NOT CASE WHEN NEW.kind = 10 THEN NEW.body ->> '$.key' END
BEGIN SELECT RAISE(ABORT, 'event_incomplete'); END;

-- What forks share with their parent cannot be erased while they live.
CREATE TRIGGER event_shared BEFORE INSERT ON event
WHEN NEW.kind = 5 AND EXISTS (SELECT 1 FROM session WHERE parent = NEW.session AND erased = 0)
BEGIN SELECT RAISE(ABORT, 'has_forks'); END;

-- Order, fence and birth in one probe: the event follows the head, at the owner's epoch, in a session that is not erased, and
-- the first one is session.opened.
CREATE TRIGGER event_kept AFTER INSERT ON event WHEN NEW.kind NOT IN (1, 6)
BEGIN
    UPDATE session SET head = NEW.seq, tip = NEW.hash, erased = (NEW.kind = 5)
        WHERE id = NEW.session AND head = NEW.seq - 1 AND head > base AND epoch = NEW.epoch AND erased = 0;
    SELECT RAISE(ABORT, 'gap_or_fenced') WHERE changes() = 0;
END;

CREATE TRIGGER event_opened AFTER INSERT ON event WHEN NEW.kind = 1
BEGIN
    UPDATE session SET head = NEW.seq, tip = NEW.hash, epoch = NEW.epoch, owner = NEW.body ->> '$.owner'
        WHERE id = NEW.session AND head = NEW.seq - 1 AND head = base AND NEW.epoch = 1;
    SELECT RAISE(ABORT, 'gap_or_fenced') WHERE changes() = 0;
END;

-- Ownership passes on when it was released, has run out, or its holder is named as dead.
CREATE TRIGGER event_takeover AFTER INSERT ON event WHEN NEW.kind = 6
BEGIN
    UPDATE session SET head = NEW.seq, tip = NEW.hash, epoch = NEW.epoch, owner = NEW.body ->> '$.owner'
        WHERE id = NEW.session AND head = NEW.seq - 1 AND head > base AND epoch = NEW.epoch - 1 AND erased = 0
            AND (owner IS NULL OR deadline < NEW.at OR (NEW.body ->> '$.why' = 'dead' AND owner = NEW.body ->> '$.previous'));
    SELECT RAISE(ABORT, 'owner_lives') WHERE changes() = 0;
END;

-- Positions have no gaps either, so that a reader who follows them misses nothing.
CREATE TRIGGER event_position AFTER INSERT ON event
WHEN EXISTS (SELECT 1 FROM event WHERE pos > NEW.pos) OR (NEW.pos <> 1 AND NOT EXISTS (SELECT 1 FROM event WHERE pos = NEW.pos - 1))
BEGIN SELECT RAISE(ABORT, 'gap_in_positions'); END;

-- The one change that is allowed, behind a visible tombstone: a body to nothing, with its digest left in its place.
CREATE TRIGGER event_same BEFORE UPDATE ON event
WHEN NOT (NEW.body IS NULL AND NEW.key IS NULL AND OLD.digest IS NULL AND length(NEW.digest) IS 32
    AND (NEW.pos, NEW.session, NEW.seq, NEW.epoch, NEW.at, NEW.kind, NEW.call, NEW.hash)
        IS (OLD.pos, OLD.session, OLD.seq, OLD.epoch, OLD.at, OLD.kind, OLD.call, OLD.hash)
    AND EXISTS (SELECT 1 FROM event WHERE session = OLD.session AND seq > OLD.seq AND kind = 5))
BEGIN SELECT RAISE(ABORT, 'append_only'); END;

CREATE TRIGGER event_stays BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'append_only'); END;

-- ------------------------------------------------------------------------------------------------------------------- blob

CREATE TRIGGER blob_replaces BEFORE INSERT ON blob
WHEN EXISTS (SELECT 1 FROM blob WHERE id = NEW.id OR (session = NEW.session AND hash = NEW.hash))
    OR EXISTS (SELECT 1 FROM session WHERE id = NEW.session AND erased = 1)
BEGIN SELECT RAISE(ABORT, 'append_only'); END;

CREATE TRIGGER blob_same BEFORE UPDATE ON blob BEGIN SELECT RAISE(ABORT, 'append_only'); END;

CREATE TRIGGER blob_stays BEFORE DELETE ON blob
WHEN NOT EXISTS (SELECT 1 FROM session WHERE id = OLD.session AND erased = 1)
BEGIN SELECT RAISE(ABORT, 'append_only'); END;

CREATE TRIGGER kind_replaces BEFORE INSERT ON kind
WHEN EXISTS (SELECT 1 FROM kind WHERE code = NEW.code OR name = NEW.name)
BEGIN SELECT RAISE(ABORT, 'append_only'); END;

CREATE TRIGGER kind_same BEFORE UPDATE ON kind BEGIN SELECT RAISE(ABORT, 'append_only'); END;
CREATE TRIGGER kind_stays BEFORE DELETE ON kind BEGIN SELECT RAISE(ABORT, 'append_only'); END;

-- ------------------------------------------------------------------------------------------------------------------ views

CREATE VIEW log AS
SELECT event.pos, session.name AS session, event.seq, event.epoch, event.at, kind.name AS kind, event.call, event.body
FROM event JOIN session ON session.id = event.session LEFT JOIN kind ON kind.code = event.kind;

-- A turn is open when the last of its two events is a start.
CREATE VIEW sessions AS
SELECT
    session.name AS session, session.head, session.epoch, session.owner, session.deadline, session.erased,
    (SELECT name FROM session AS up WHERE up.id = session.parent) AS parent, session.base,
    (SELECT at FROM event WHERE session = session.id AND seq = session.base + 1) AS opened_at,
    (SELECT at FROM event WHERE session = session.id AND seq = session.head) AS changed_at,
    coalesce((SELECT kind = 11 FROM event WHERE session = session.id AND kind IN (11, 12) ORDER BY seq DESC LIMIT 1), 0) AS turn_open
FROM session;

-- Calls without an outcome. Only the last answer of an open turn can have any.
CREATE VIEW pending AS
WITH open_turn AS (
    SELECT id, (SELECT max(seq) FROM event WHERE session = id AND kind IN (11, 12)) AS turn_seq FROM session
), answer AS (
    SELECT open_turn.id, (
        SELECT seq FROM event WHERE session = open_turn.id AND seq > turn_seq AND kind = 21 ORDER BY seq DESC LIMIT 1) AS seq
    FROM open_turn
    WHERE (SELECT kind FROM event WHERE session = open_turn.id AND seq = turn_seq) = 11
)
SELECT
    session.name AS session, part.value ->> '$.id' AS call, part.value ->> '$.name' AS tool, part.value -> '$.arguments' AS arguments,
    coalesce((
        SELECT CASE kind WHEN 30 THEN 'waiting' WHEN 31 THEN 'approved' WHEN 33 THEN 'started' ELSE 'doubted' END
        FROM event AS fact WHERE fact.session = event.session AND fact.seq > event.seq AND fact.call = part.value ->> '$.id'
        ORDER BY fact.seq DESC LIMIT 1), 'requested') AS state,
    (SELECT count(*) FROM event AS fact
        WHERE fact.session = event.session AND fact.seq > event.seq AND fact.call = part.value ->> '$.id' AND fact.kind = 33) AS attempt
FROM answer
JOIN event ON event.session = answer.id AND event.seq = answer.seq
JOIN session ON session.id = answer.id
JOIN json_each(event.body, '$.parts') AS part
WHERE part.value ->> '$.id' IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM event AS fact
    WHERE fact.session = event.session AND fact.call = part.value ->> '$.id' AND fact.kind IN (32, 34, 35, 36));

CREATE VIEW usage AS
SELECT
    session.name AS session, count(*) AS answers,
    coalesce(sum(body ->> '$.usage.input'), 0) AS input, coalesce(sum(body ->> '$.usage.output'), 0) AS output,
    coalesce(sum(body ->> '$.usage.cached'), 0) AS cached, coalesce(sum(body ->> '$.usage.reasoning'), 0) AS reasoning,
    sum(body ->> '$.cost_nano_usd') AS cost_nano_usd, count(*) - count(body ->> '$.cost_nano_usd') AS unpriced
FROM event JOIN session ON session.id = event.session
WHERE event.kind = 21
GROUP BY event.session;
