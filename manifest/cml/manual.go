package cml

import (
	_ "embed"
	"slices"
	"strings"
)

// manualPage is the reference of the language. Editors show what it says of a key.
//
//go:embed cml.5
var manualPage string

// headings are where the manual explains the keys of each object, by the object's name.
var headings = map[string]string{
	"a manifest": "Top-level keys", "`program`": "The runner elf", "a child": "CHILDREN", "`restart`": "CHILDREN",
	"a collection": "COLLECTIONS", "an environment": "ENVIRONMENTS", "an entry of `capabilities`": "capabilities",
	"an entry of `use`": "use", "an entry of `offer`": "offer", "an entry of `expose`": "expose",
	"a config type": "CONFIG", "a config element type": "CONFIG",
}

// A topic is a key below a heading of the manual.
type topic struct{ heading, key string }

// manualText is what the manual says of a key, as Markdown.
type manualText struct {
	text   string
	shared bool // it is said of several keys at once
}

func readManual(page string) map[topic]manualText {
	out := map[topic]manualText{}
	eachItem(page, func(heading string, keys []string, body []string) {
		text := markdown(body)
		for _, k := range keys {
			out[topic{heading, k}] = manualText{text, len(keys) > 1}
		}
	})
	// The one key that is explained in running text.
	if _, text, ok := strings.Cut(page, "\n.Sh PROGRAM\n.Ic runner\n"); ok {
		text, _, _ = strings.Cut(text, "\nAll other keys")
		out[topic{"PROGRAM", "runner"}] = manualText{text: markdown(append([]string{"Its runner"}, strings.Split(text, "\n")...))}
	}
	return out
}

// manualKeys are the keys below a heading, in order.
func manualKeys(page, heading string) []string {
	var out []string
	eachItem(page, func(h string, keys []string, _ []string) {
		if h == heading {
			out = append(out, keys...)
		}
	})
	return out
}

// eachItem calls f for each item of a list whose terms are keys (.It Ic key , key).
func eachItem(page string, f func(heading string, keys, body []string)) {
	var heading string
	var keys, body []string
	end := func() {
		if keys != nil {
			f(heading, keys, body)
		}
		keys, body = nil, nil
	}
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		macro, rest, _ := strings.Cut(line, " ")
		switch macro {
		case ".Sh", ".Ss":
			end()
			heading = rest
		case ".It":
			end()
			if term, ok := strings.CutPrefix(rest, "Ic "); ok {
				term, _, _ = strings.Cut(term, " No ")
				keys = strings.Fields(strings.ReplaceAll(term, " , ", " "))
			}
		case ".Bl", ".El":
			end()
		default:
			body = append(body, line)
		}
	}
	end()
}

// markdown turns lines of mdoc(7) into Markdown, as far as cml.5 uses mdoc within its lists.
func markdown(lines []string) string {
	var m mdoc
	for _, line := range lines {
		switch {
		case line == ".Pp":
			m.out.WriteString("\n\n")
			m.glue = true
		case strings.HasPrefix(line, "."):
			m.macros(strings.Fields(line[1:]))
		default:
			m.put(escapes.Replace(line))
		}
	}
	return strings.TrimSpace(m.out.String())
}

var escapes = strings.NewReplacer(`\(dq`, `"`, `\&`, "", `\e`, `\`)

type mdoc struct {
	out  strings.Builder
	glue bool // no blank before what comes next
}

func (m *mdoc) put(s string) {
	if m.out.Len() > 0 && !m.glue {
		m.out.WriteByte(' ')
	}
	m.glue = false
	m.out.WriteString(s)
}

// macros writes one line of macros and their arguments.
func (m *mdoc) macros(words []string) {
	isPunctuation := func(w string) bool { return len(w) == 1 && strings.Contains(".,:;)", w) }
	closing := ""
	last := len(words)
	for last > 0 && isPunctuation(words[last-1]) {
		last--
	}
	code := false
	var span []string // words of one piece of code
	flush := func() {
		if span != nil {
			m.put("`" + escapes.Replace(strings.Join(span, " ")) + "`")
			span = nil
		}
	}
	for i, w := range words[:last] {
		isMacro := len(w) == 2 && w[0] >= 'A' && w[0] <= 'Z'
		joined := span != nil && slices.Contains(words[max(i-2, 0):i+1], "Ns") // within a span there is no blank anyway
		if (isMacro || isPunctuation(w)) && !joined {
			flush()
		}
		switch {
		case joined && isMacro:
		case joined:
			span[len(span)-1] += w
		case w == "Ic" || w == "Li" || w == "Pa" || w == "Ev" || w == "Ar" || w == "Ql":
			code = true
		case w == "Dq" || w == "Pq" || w == "Po":
			open := map[string]string{"Dq": `"`, "Pq": "(", "Po": "("}[w]
			m.put(open)
			m.glue, code = true, false
			closing = map[string]string{"Dq": `"`, "Pq": ")"}[w] + closing
		case w == "Pc":
			m.glue = true
			m.put(")")
		case w == "Ns":
			m.glue = true
		case w == "No" || w == "Xr" || w == "Sx":
			code = false
		case isPunctuation(w):
			m.glue = true
			m.put(w)
		case code && closing != `"`:
			span = append(span, w)
		default:
			m.put(escapes.Replace(w))
		}
	}
	flush()
	for _, w := range append([]string{closing}, words[last:]...) {
		if w != "" {
			m.glue = true
			m.put(w)
		}
	}
	if slices.Equal(words, []string{"Po"}) {
		m.glue = true
	}
}
