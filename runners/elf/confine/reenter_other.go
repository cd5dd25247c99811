//go:build !amd64 && !arm64

package confine

func reentryProgram([3][2]string, string) []byte { return nil }
