package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// line is one line of an answer that comes in parts: a row, or, as the last
// one, how many more there are, or what went wrong in the midst of it.
type line[T any] struct {
	Row  *T     `json:"row,omitempty"`
	More int    `json:"more,omitempty"`
	Err  string `json:"error,omitempty"`
}

// lineWriter writes an answer in lines. It begins when the first one is
// written or flushed; until then the answer can still be an Error.
type lineWriter struct {
	w     http.ResponseWriter
	begun bool
}

func (l *lineWriter) write(v any) error {
	l.begin()
	return json.NewEncoder(l.w).Encode(v)
}

func (l *lineWriter) begin() {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.w.WriteHeader(http.StatusOK)
	}
}

// flush sends what was written so far.
func (l *lineWriter) flush() error {
	l.begin()
	return http.NewResponseController(l.w).Flush()
}

// end ends the answer with what is still to be said.
func (l *lineWriter) end(more int, err error) {
	switch {
	case err != nil && !l.begun:
		writeError(l.w, err)
	case err != nil:
		l.write(line[struct{}]{Err: err.Error()})
	case more > 0:
		l.write(line[struct{}]{More: more})
	default:
		l.begin()
	}
}

// lines asks for an answer in lines and calls each for every row, which may end
// it with an error; before any, started. It returns how many more rows there are than were sent.
func lines[T any](ctx context.Context, c *Client, path string, query url.Values, started func(), each func(T) error) (more int, err error) {
	res, err := c.send(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	started()
	for dec := json.NewDecoder(res.Body); ; {
		var l line[T]
		err := dec.Decode(&l)
		switch {
		case errors.Is(err, io.EOF):
			return more, nil
		case err != nil:
			return more, fmt.Errorf("read answer of seamarkd: %w", err)
		case l.Err != "":
			return more, errors.New(l.Err)
		case l.Row != nil:
			if err := each(*l.Row); err != nil {
				return more, err
			}
		}
		more += l.More
	}
}
