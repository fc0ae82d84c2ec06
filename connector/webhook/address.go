package webhook

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// allowlist decides by the sender's address.
type allowlist struct {
	allowed []netip.Prefix // empty: everybody
	proxies []netip.Prefix // whose X-Forwarded-For is believed
}

func (l allowlist) admits(r *http.Request) bool {
	return len(l.allowed) == 0 || contains(l.allowed, l.sender(r))
}

// sender returns the address of who sent the request: the peer's, or, if the
// peer is a trusted proxy, the right-most address of X-Forwarded-For that is
// not one; what stands left of it anybody can write. The result is invalid,
// and in no network, if that cannot be read.
func (l allowlist) sender(r *http.Request) netip.Addr {
	sender := parseAddr(r.RemoteAddr)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !contains(l.proxies, sender) {
			return sender
		}
		if hop = strings.TrimSpace(hop); hop == "" && len(hops) == 1 {
			return sender // the proxy itself speaks
		}
		sender = parseAddr(hop)
	}
	return sender
}

// parseAddr reads an address with or without a port; invalid if it is neither.
func parseAddr(text string) netip.Addr {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone("")
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}

func contains(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}
