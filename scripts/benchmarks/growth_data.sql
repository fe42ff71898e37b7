-- The rows of a market that has grown, inserted into the schema of migration 0015. growth_data.py has the values.
-- One job in 25 failed: its hold was returned. Renter 1 and provider 1 of a large market have one job in ten, and
-- renter 2 the newest job, which still has its texts.
CREATE TEMP TABLE number AS
    WITH RECURSIVE n (j) AS (SELECT 1 UNION ALL SELECT j + 1 FROM n WHERE j < :jobs) SELECT j FROM n;
CREATE TEMP TABLE plan AS SELECT j,
    printf('job-%024x', (j * 5000000000003) & 281474976710655) AS job_id,
    CASE WHEN j = :jobs THEN 2 WHEN :has_large AND j % 10 = 0 THEN 1 ELSE 2 + j % (:renters - 1) END AS renter_id,
    CASE WHEN :has_large AND j % 10 = 1 THEN 1 ELSE 2 + (j / 7) % (:providers - 1) END AS provider_id,
    :year_ago + j * :spacing AS at, j % 25 <> 3 AS is_good FROM number;
INSERT INTO provider (id, name, email, email_key, gpu_model, gpu_vram_mib, os, phone, state, session_epoch,
        connected, draining, models_reported, job_types, gpu_status, created_ms)
    SELECT j, 'Provider ' || j, 'p' || j || '@example.com', 'p' || j || '@example.com', 'RTX 4090', 24564,
        'Linux', '', 'active', 1, FALSE, FALSE, TRUE, :job_type, '{}', :year_ago FROM number WHERE j <= :providers;
INSERT INTO provider_model (provider_id, name, context_tokens, warm)
    SELECT j, :model, 2048, TRUE FROM number WHERE j <= :providers;
INSERT INTO renter (id, name, email, email_key, organization, phone, created_ms)
    SELECT j, 'Renter ' || j, 'r' || j || '@example.com', 'r' || j || '@example.com', '', '', :year_ago
    FROM number WHERE j <= :renters;
INSERT INTO api_key (role, owner_id, sha256, last4, created_ms)
    SELECT 'renter', j, randomblob(32), 'last', :year_ago FROM number WHERE j <= :renters;
INSERT INTO api_key (role, owner_id, sha256, last4, created_ms)
    SELECT 'provider', j, randomblob(32), 'last', :year_ago FROM number WHERE j <= :providers;
INSERT INTO job (job_id, renter_id, job_type, state, provider_id, model, duration_ms, limit_ms, priority,
        hold_halala, rate_halala_per_minute, spec, lease_epoch, attempt, created_ms, started_ms, ended_ms,
        output_bytes, content_type, billed_ms, charge_halala, failure_reason, failure_message, request_digest,
        start_by_ms, texts_removed_ms)
    SELECT job_id, renter_id, :job_type, CASE WHEN is_good THEN 'completed' ELSE 'failed' END, provider_id,
        :model, 60000, 60000, 2, :hold, :rate, CASE WHEN at > :texts_since THEN :spec ELSE '{}' END, 1, 1, at,
        at + 1000, at + 1000 + :billed, CASE WHEN is_good THEN 4 ELSE 0 END, 'text/plain',
        CASE WHEN is_good THEN :billed ELSE 0 END, CASE WHEN is_good THEN :charge ELSE 0 END,
        CASE WHEN is_good THEN NULL ELSE :failure END, CASE WHEN is_good THEN NULL ELSE 'it failed' END, '',
        at + 600000, CASE WHEN at > :texts_since THEN NULL ELSE at + 2592000000 END FROM plan;
INSERT INTO lease (job_id, lease_epoch, provider_id, session_epoch, secret_sha256, state, attempt, offered_ms,
        accepted_ms, started_ms, ended_ms, outcome, failure_reason, detail, run_ms, output_through_seq,
        log_through_seq, number)
    SELECT job_id, 1, provider_id, 1, randomblob(32), 'ended', 1, at, at + 500, at + 1000, at + 1000 + :billed,
        CASE WHEN is_good THEN :succeeded ELSE :failed END, CASE WHEN is_good THEN NULL ELSE :failure END, '',
        :billed, is_good, 0, random() & 9007199254740991 FROM plan;
INSERT INTO chunk (job_id, lease_epoch, stream, seq, data)
    SELECT job_id, 1, 'output', 1, CAST('done' AS BLOB) FROM plan WHERE is_good AND at > :texts_since;
INSERT INTO hold (job_id, renter_id, amount_halala, state, charge_halala, created_ms, resolved_ms)
    SELECT job_id, renter_id, :hold, CASE WHEN is_good THEN 'posted' ELSE 'voided' END,
        CASE WHEN is_good THEN :charge ELSE 0 END, at, at + 1000 + :billed FROM plan;
INSERT INTO account (id, kind, owner_id, balance_halala)
    VALUES (:external, 'external', 0, 0), (:platform, 'platform', 0, 0);
INSERT INTO account (id, kind, owner_id, balance_halala)
    SELECT :wallet + j, 'renter', j, 0 FROM number WHERE j <= :renters;
INSERT INTO account (id, kind, owner_id, balance_halala)
    SELECT :held + j, 'renter_held', j, 0 FROM number WHERE j <= :renters;
INSERT INTO account (id, kind, owner_id, balance_halala)
    SELECT :earned + j, 'provider', j, 0 FROM number WHERE j <= :providers;
INSERT INTO account (id, kind, owner_id, balance_halala)
    SELECT :reserved + j, 'withdrawal', j, 0 FROM number WHERE j <= :providers;
INSERT INTO transfer (kind, debit_account_id, credit_account_id, amount_halala, created_ms)
    -- The two large accounts may have all jobs and the others a few: in all less than a sum of micros can be.
    SELECT 'credit', :external, :wallet + j, :hold * CASE WHEN j <= 2 THEN :jobs ELSE 1000 END, :year_ago
    FROM number WHERE j <= :renters;
CREATE TEMP TABLE step (number INTEGER PRIMARY KEY);
INSERT INTO step VALUES (1), (2), (3), (4);
INSERT INTO transfer (kind, debit_account_id, credit_account_id, amount_halala, job_id, created_ms)
    SELECT CASE number WHEN 1 THEN 'hold' WHEN 2 THEN 'refund' WHEN 3 THEN 'payout' ELSE 'fee' END,
        CASE number WHEN 1 THEN :wallet ELSE :held END + renter_id,
        CASE number WHEN 1 THEN :held + renter_id WHEN 2 THEN :wallet + renter_id
            WHEN 3 THEN :earned + provider_id ELSE :platform END,
        CASE number WHEN 1 THEN :hold WHEN 2 THEN :hold - is_good * :charge WHEN 3 THEN :payout ELSE :fee END,
        job_id, CASE number WHEN 1 THEN at ELSE at + 1000 + :billed END
    FROM plan CROSS JOIN step WHERE is_good OR number <= 2;
INSERT INTO withdrawal (id, provider_id, amount_halala, state, iban_last4, created_ms, updated_ms)
    SELECT j, j, :payout, 'paid', '7519', at, at + 1000 FROM plan
    WHERE j <= :providers AND j IN (SELECT provider_id FROM plan WHERE is_good);
INSERT INTO transfer (kind, debit_account_id, credit_account_id, amount_halala, withdrawal_id, created_ms)
    SELECT CASE number WHEN 1 THEN 'withdraw' ELSE 'withdrawal_paid' END,
        CASE number WHEN 1 THEN :earned ELSE :reserved END + provider_id,
        CASE number WHEN 1 THEN :reserved + provider_id ELSE :external END, amount_halala, id,
        CASE number WHEN 1 THEN created_ms ELSE updated_ms END
    FROM withdrawal CROSS JOIN step WHERE number <= 2;
CREATE TEMP TABLE sums AS SELECT account_id, SUM(amount) AS amount FROM (
    SELECT credit_account_id AS account_id, SUM(amount_halala) AS amount FROM transfer GROUP BY 1
    UNION ALL SELECT debit_account_id, -SUM(amount_halala) FROM transfer GROUP BY 1) GROUP BY 1;
CREATE UNIQUE INDEX temp.sum_of_account ON sums (account_id);
UPDATE account SET balance_halala = COALESCE((SELECT amount FROM sums WHERE account_id = account.id), 0);
UPDATE renter SET request_bytes = COALESCE((SELECT SUM(LENGTH(spec)) FROM job
    WHERE renter_id = renter.id AND texts_removed_ms IS NULL), 0) WHERE id <= 2;
INSERT INTO webhook (renter_id, url, secret, balance_is_low, claimed_until_ms, created_ms)
    SELECT j, 'https://example.com/hook', 'whsec_bench', FALSE, 0, :year_ago FROM number
    WHERE j <= :renters AND j % 100 IN (1, 2);
INSERT INTO webhook_delivery (renter_id, event_id, event, body, status, created_ms, attempts, next_ms, last_ms,
        status_code)
    SELECT renter_id, 'evt-' || renter_id || '-' || number, 'job.completed', '{}', 'delivered', :year_ago, 1,
        :year_ago, :year_ago, 200 FROM webhook CROSS JOIN step;
INSERT INTO audit_entry (at_ms, actor, action, object, object_id, before, after, request_id)
    SELECT :year_ago, 'admin', 'credit', 'renter', CAST(j AS TEXT), '{}', '{}', '' FROM number
    WHERE j <= :renters;
INSERT INTO artifact (job_id, lease_epoch, name, size_bytes, sha256, blob_key, state, created_ms, published_ms)
    SELECT job_id, 1, :file_name, :file_bytes, :file_sha256,
        CASE WHEN j = (SELECT MAX(j) FROM plan WHERE renter_id = 2 AND is_good) THEN :file_key
            ELSE lower(hex(randomblob(16))) END, 'published', at, at FROM plan
    WHERE is_good AND (j % 100 = 7 OR j = (SELECT MAX(j) FROM plan WHERE renter_id = 2 AND is_good));
UPDATE job SET artifact_count = 1, artifact_bytes = :file_bytes WHERE job_id IN (SELECT job_id FROM artifact);
