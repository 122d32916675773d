// The same with Go's net/http: one goroutine a stream parses each chunk, frames it anew and flushes it. It keeps no log,
// so a cut stream cannot be resumed.
//
//	relay PORT UPSTREAM_URL
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
)

type ask struct {
	Prompt string `json:"prompt"`
}

type chunk struct {
	Choices []struct {
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
	} `json:"choices"`
}

type token struct {
	Text string `json:"text"`
}

var upstream = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512}}

func relay(w http.ResponseWriter, r *http.Request) {
	var asked ask
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, "bad JSON", http.StatusBadRequest)
		return
	}
	body, _ := json.Marshal(map[string]any{
		"model": "bench", "stream": true, "messages": []map[string]string{{"role": "user", "content": asked.Prompt}},
	})
	call, _ := http.NewRequestWithContext(r.Context(), "POST", os.Args[2]+"/chat/completions", bytes.NewReader(body))
	call.Header.Set("Content-Type", "application/json")
	answer, err := upstream.Do(call)
	if err != nil {
		http.Error(w, "the upstream does not answer", http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	w.Header().Set("Content-Type", "text/event-stream")
	out := w.(http.Flusher)
	lines := bufio.NewScanner(answer.Body)
	for seq := 1; lines.Scan(); {
		data := bytes.TrimPrefix(lines.Bytes(), []byte("data: "))
		if len(data) == len(lines.Bytes()) {
			continue
		}
		if string(data) == "[DONE]" {
			fmt.Fprint(w, "event: end\ndata: {}\n\n")
			return
		}
		var got chunk
		if json.Unmarshal(data, &got) != nil || len(got.Choices) == 0 || got.Choices[0].Delta.Content == "" {
			continue
		}
		text, _ := json.Marshal(token{got.Choices[0].Delta.Content})
		fmt.Fprintf(w, "id: %d\ndata: %s\n\n", seq, text)
		out.Flush()
		seq++
	}
}

func main() {
	http.HandleFunc("/stream", relay)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
