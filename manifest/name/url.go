package name

import (
	"net/netip"
	"strconv"
	"strings"
)

const (
	wantURL       = "a valid URL"
	wantURLLength = "a non-empty URL no more than 4096 characters in length"
)

// CheckURL says whether s can be the URL of a component, which is one of
//
//   - an absolute URL that has at least one of host, path and fragment: "file:///srv/tree/net.cm",
//     "pkg://host/name#meta/x.cm". It is read as WHATWG's URL standard reads it, so the host of an unknown scheme may hold
//     characters that RFC 3986 refuses;
//   - a relative URL with a fragment: "#meta/x.cm", "net#meta/x.cm";
//   - the relative path of a manifest file, which only cmgr knows: "echo.cml", "net/echo.cm", "../shared/log.cml".
//
// The text is not normalised. Stricter than the standard, which drops them: no control characters, no space at either end.
func CheckURL(s string) error { return grammar(s, MaxURL, wantURLLength, wantURL, isURL) }

// IsManifestPath says whether the URL s is the relative path of a manifest file, rather than an absolute URL or one with a
// fragment.
func IsManifestPath(s string) bool {
	if strings.ContainsAny(s, "#?\\") || Scheme(s) != "" || !strings.HasSuffix(s, ".cml") && !strings.HasSuffix(s, ".cm") {
		return false
	}
	for seg := range strings.SplitSeq(s, "/") {
		if seg == "" || seg == ".cm" || seg == ".cml" {
			return false
		}
	}
	return true
}

// Scheme is the scheme of an absolute URL in lower case; "" for a relative one.
func Scheme(url string) string {
	scheme, _, ok := strings.Cut(url, ":")
	if !ok || !isScheme(scheme) {
		return ""
	}
	return strings.ToLower(scheme)
}

func isURL(s string) bool {
	if strings.TrimSpace(s) != s || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return false
	}
	if IsManifestPath(s) {
		return true
	}
	rest, fragment, hasFragment := strings.Cut(s, "#")
	scheme := Scheme(s)
	if scheme == "" {
		// Joined to a base without a host, "//host" at the start would be a host again.
		return fragment != "" && !strings.HasPrefix(rest, "//")
	}
	rest, _, _ = strings.Cut(rest[len(scheme)+1:], "?")
	special := false
	switch scheme {
	case "http", "https", "ws", "wss", "ftp", "file":
		special = true
		rest = strings.ReplaceAll(rest, `\`, "/")
	}
	authority, isAuthority := strings.CutPrefix(rest, "//")
	if special && scheme != "file" {
		// These always have a host, however many slashes precede it.
		authority, isAuthority = strings.TrimLeft(rest, "/"), true
	}
	if !isAuthority {
		return rest != "" || hasFragment
	}
	path := ""
	if i := strings.IndexByte(authority, '/'); i >= 0 {
		authority, path = authority[:i], authority[i:]
	}
	if !isAuthorityOf(scheme, special, authority) {
		return false
	}
	return authority != "" || path != "" || hasFragment
}

// isAuthorityOf checks [userinfo "@"] host [":" port].
func isAuthorityOf(scheme string, special bool, s string) bool {
	user := strings.LastIndexByte(s, '@')
	host := s[user+1:]
	if strings.HasPrefix(host, "[") {
		inner, after, ok := strings.Cut(host[1:], "]")
		ip, err := netip.ParseAddr(inner)
		return ok && err == nil && ip.Is6() && ip.Zone() == "" && (after == "" || after[0] == ':' && isPort(after[1:]))
	}
	host, port, hasPort := strings.Cut(host, ":")
	if hasPort && (scheme == "file" || !isPort(port)) {
		return false
	}
	if host == "" && (user >= 0 || hasPort || special && scheme != "file") {
		return false
	}
	forbidden := " #/:<>?@[\\]^|"
	if special {
		forbidden += "%" // a percent-encoded host is legal there, but nobody resolves one
	}
	return !strings.ContainsAny(host, forbidden)
}

func isPort(s string) bool {
	if s == "" {
		return true
	}
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil && digit(s[0])
}
