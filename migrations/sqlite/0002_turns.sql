-- The begins and ends of turns are looked for from the end of a session. What that costs is what happened since the last of them;
-- the index that stood here before cost two events of every turn a page more to write.

DROP VIEW pending;
DROP INDEX event_turn;

-- Calls without an outcome. Only the last answer of an open turn can have any.
CREATE VIEW pending AS
WITH open_turn AS (
    SELECT id, (SELECT seq FROM event WHERE session = session.id AND kind IN (11, 12) ORDER BY seq DESC LIMIT 1) AS turn_seq FROM session
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
