// An agent in a namespace of its own, which asks Paymaster through a Nexus endpoint:
//
//	TEMPORAL_ADDRESS=… TEMPORAL_NAMESPACE=… go run . ENDPOINT ROUTE PROMPT
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// Request is a part of docs/schemas/EndpointRequest.json: add the fields that you need.
type Request struct {
	Route  string `json:"route"`
	Prompt string `json:"prompt"`
}

// Result is a part of docs/schemas/LLMResult.json.
type Result struct {
	Outcome   string `json:"outcome"`
	Text      string `json:"text"`
	CostNanos int64  `json:"cost_nanos"`
	Reason    string `json:"reason"`
	Detail    string `json:"detail"`
}

// Content asks once. A call that is denied or unavailable fails the workflow.
func Content(ctx workflow.Context, endpoint string, request Request) (Result, error) {
	var result Result
	paymaster := workflow.NewNexusClient(endpoint, "paymaster")
	operation := paymaster.ExecuteOperation(ctx, "generate", request, workflow.NexusOperationOptions{})
	if err := operation.Get(ctx, &result); err != nil {
		return result, err
	}
	if result.Outcome != "completed" {
		return result, temporal.NewNonRetryableApplicationError(result.Detail, result.Reason, nil)
	}
	return result, nil
}

func main() {
	endpoint, request := os.Args[1], Request{Route: os.Args[2], Prompt: os.Args[3]}
	c, err := client.Dial(client.Options{
		HostPort:  os.Getenv("TEMPORAL_ADDRESS"),
		Namespace: os.Getenv("TEMPORAL_NAMESPACE"),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	w := worker.New(c, "content", worker.Options{})
	w.RegisterWorkflow(Content)
	if err := w.Start(); err != nil {
		log.Fatal(err)
	}
	defer w.Stop()
	options := client.StartWorkflowOptions{TaskQueue: "content"}
	run, err := c.ExecuteWorkflow(context.Background(), options, Content, endpoint, request)
	if err != nil {
		log.Fatal(err)
	}
	var result Result
	if err := run.Get(context.Background(), &result); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s ($%.9f)\n", result.Text, float64(result.CostNanos)/1e9)
}
