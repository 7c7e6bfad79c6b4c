import { ENDPOINT } from './lanes.ts';
import { show } from './show.ts';

/** What a person can do now, to be copied as it stands. */
export function showWhatNext(options: { url: string; dataDir: string; logs: string[]; ownKey: boolean }): void {
  const { url, dataDir, logs, ownKey } = options;
  const key = ownKey ? '$TASKLANE_ADMIN_KEY' : `$(cat ${dataDir}/admin.key)`;
  const body = '{"model": "documents", "messages": [{"role": "user", "content": "How many words do I write?"}]}';
  show.heading('next', 'the server and the worker go on until Ctrl-C; in another terminal, in this folder:');
  show.plain(String.raw`
  export OPENAI_BASE_URL=${url}/v1
  export OPENAI_API_KEY="${key}"

Programs that use OpenAI's packages, in any language, need no more than these two. The model is documents. A batch with curl:

  AUTH="Authorization: Bearer $OPENAI_API_KEY"
  echo '{"custom_id": "a", "method": "POST", "url": "${ENDPOINT}", "body": ${body}}' > in.jsonl
  FILE=$(curl -s $OPENAI_BASE_URL/files -H "$AUTH" -F purpose=batch -F file=@in.jsonl | grep -o 'file-[^"]*')
  BATCH=$(curl -s $OPENAI_BASE_URL/batches -H "$AUTH" \
    -d '{"input_file_id": "'$FILE'", "endpoint": "${ENDPOINT}", "completion_window": "24h"}' | grep -o 'BATCH-[^"]*')
  curl -sN $OPENAI_BASE_URL/batches/$BATCH/results -H "$AUTH" -H 'Accept: text/event-stream'

A live task, what waits, and a look into the database:

  curl -sN -w '\n' $OPENAI_BASE_URL/queue/put -H "$AUTH" \
    -d '{"endpoint": "${ENDPOINT}", "response_mode": "streaming", "data": ${body}}'
  curl -s -w '\n' $OPENAI_BASE_URL/queues -H "$AUTH"
  psql "$(cat ${dataDir}/database.url)" -c "select id, status, completed, failed, total from tasklane.batch_progress order by batch_id desc limit 9"

  admin key   ${ownKey ? 'that of TASKLANE_ADMIN_KEY' : `${dataDir}/admin.key`}
  logs        ${logs.join(', ')}
  read on     README.md, docs/batches.md, docs/put-and-get-answers.md, docs/write-a-worker.md
`);
}
