import * as nexus from 'nexus-rpc';
import { ApplicationFailure, createNexusServiceClient } from '@temporalio/workflow';

/** A part of docs/schemas/EndpointRequest.json: add the fields that you need. */
export interface Request {
  route: string;
  prompt: string;
}

/** A part of docs/schemas/LLMResult.json. */
export interface Result {
  outcome: 'completed' | 'denied' | 'unavailable';
  text: string;
  cost_nanos: number;
  reason: string | null;
  detail: string | null;
}

const paymaster = nexus.service('paymaster', {
  generate: nexus.operation<Request, Result>(),
});

/** Asks once. A call that is denied or unavailable fails the workflow. */
export async function content(endpoint: string, request: Request): Promise<Result> {
  const client = createNexusServiceClient({ service: paymaster, endpoint });
  const result = await client.executeOperation('generate', request);
  if (result.outcome !== 'completed') {
    throw ApplicationFailure.nonRetryable(result.detail, result.reason);
  }
  return result;
}
