package control

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/seamark-lb/seamark/source"
)

// Error is what a daemon answers when it cannot do what was asked. It wraps
// the sentinel of package source (or ErrNoDatapath) that Code stands for.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Unwrap makes errors.Is work across the socket.
func (e *Error) Unwrap() error {
	for _, c := range codes {
		if c.code == e.Code {
			return c.err
		}
	}
	return nil
}

// errInvalid: the request is not understood.
var errInvalid = errors.New("invalid request")

var codes = []struct {
	err    error
	code   string
	status int
}{
	{source.ErrNotFound, "NotFound", http.StatusNotFound},
	{source.ErrConflict, "Conflict", http.StatusConflict},
	{source.ErrExists, "Exists", http.StatusConflict},
	{source.ErrReadOnly, "ReadOnly", http.StatusMethodNotAllowed},
	{ErrStranded, "Stranded", http.StatusConflict},
	{ErrNoDatapath, "NoDatapath", http.StatusNotImplemented},
	{errInvalid, "Invalid", http.StatusBadRequest},
}

func writeError(w http.ResponseWriter, err error) {
	answer, status := Error{Code: "Internal", Message: err.Error()}, http.StatusInternalServerError
	if errors.As(err, new(source.Problems)) || errors.As(err, new(source.Problem)) {
		answer.Code, status = "Invalid", http.StatusUnprocessableEntity
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			answer.Code, status = c.code, c.status
			break
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}
