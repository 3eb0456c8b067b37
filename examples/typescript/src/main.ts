// TEMPORAL_ADDRESS=… TEMPORAL_NAMESPACE=… npm start ENDPOINT ROUTE PROMPT
import { randomUUID } from 'node:crypto';
import { Client, Connection } from '@temporalio/client';
import { NativeConnection, Worker } from '@temporalio/worker';
import { content } from './workflows';

async function main([endpoint, route, prompt]: string[]): Promise<void> {
  const address = process.env.TEMPORAL_ADDRESS;
  const namespace = process.env.TEMPORAL_NAMESPACE;
  const connection = await NativeConnection.connect({ address });
  const worker = await Worker.create({
    connection,
    namespace,
    taskQueue: 'content',
    workflowsPath: require.resolve('./workflows'),
  });
  const client = new Client({ connection: await Connection.connect({ address }), namespace });
  const result = await worker.runUntil(
    client.workflow.execute(content, {
      taskQueue: 'content',
      workflowId: `content-${randomUUID()}`,
      args: [endpoint, { route, prompt }],
    }),
  );
  await client.connection.close();
  await connection.close();
  console.log(`${result.text} ($${(result.cost_nanos / 1e9).toFixed(9)})`);
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
