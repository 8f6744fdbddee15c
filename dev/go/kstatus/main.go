// kstatus says how Flux and Helm judge objects: a JSON list of objects on standard input, a JSON list of
// {"status", "message"} on standard output, by the library that both of them use.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(1)
	}
}

func run() error {
	var objects []map[string]any
	if err := json.NewDecoder(os.Stdin).Decode(&objects); err != nil {
		return err
	}
	type answer struct {
		Status  string `json:"status"`
		Message string `json:"message"`
	}
	answers := make([]answer, 0, len(objects))
	for _, object := range objects {
		// JSON numbers arrive as float64, and the library reads generations as int64.
		raw, err := json.Marshal(object)
		if err != nil {
			return err
		}
		item := &unstructured.Unstructured{}
		if err := item.UnmarshalJSON(raw); err != nil {
			return err
		}
		result, err := status.Compute(item)
		if err != nil {
			return err
		}
		answers = append(answers, answer{result.Status.String(), result.Message})
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}
