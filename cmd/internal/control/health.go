package control

import (
	"context"
	"net/http"
)

// Health is what a probe asks for: the little of Status that it needs.
type Health struct {
	// Ready and NotReady as in Status.
	Ready    bool     `json:"ready"`
	NotReady []string `json:"notReady,omitempty"`
}

// Health asks whether the daemon is ready. Without an error, it is alive.
func (c *Client) Health(ctx context.Context) (h Health, err error) {
	err = c.call(ctx, http.MethodGet, "health", nil, nil, &h)
	return h, err
}

func (s *Server) health(*http.Request) (any, error) {
	if s.Status == nil {
		return Health{NotReady: []string{"this daemon does not say how it is"}}, nil
	}
	st := s.Status()
	return Health{Ready: st.Ready, NotReady: st.NotReady}, nil
}
