// validator.js: an HTTP receiver that hands each request to the SDK of CloudEvents and to the verifier of Standard Webhooks.
//
//	node validator.js PORT_FILE RECORD
//
// Each request becomes a line of JSON in the record: {"path", "headers", "body" (base64), "events": [...] or "error", "verified"}.  A query string
// says more: ?secret=whsec_... verifies the signature with that secret (repeated: with each), ?plain=1 parses nothing.
//
//	node validator.js --kafka < RECORDS
//
// Prints a line of JSON for each record {"key", "value", "headers"}, all text in hexadecimal: the event, or {"error"}.
'use strict';

const fs = require('fs');
const http = require('http');
const { HTTP, Kafka } = require('cloudevents');
const { Webhook } = require('standardwebhooks');

// section 3.1.3.2 of the HTTP binding, which the SDK leaves to its caller
function decoded(headers)
{
	const result = {};

	for (const [name, value] of Object.entries(headers))
		result[name] = name.startsWith('ce-') ? decodeURIComponent(value) : value;
	return result;
}

function events(headers, body)
{
	// what is not text stays bytes
	const isText = /json|text|xml/.test(headers['content-type']);
	const parsed = HTTP.toEvent({ headers: decoded(headers), body: isText ? body.toString('utf8') : body });

	return (Array.isArray(parsed) ? parsed : [parsed]).map((event) => {
		event.validate();
		return event.toJSON();
	});
}

function verified(secrets, headers, body)
{
	return secrets.map((secret) => {
		try
		{
			new Webhook(secret).verify(body, headers);
			return true;
		}
		catch (error)
		{
			return String(error.message);
		}
	});
}

function ofKafka(line)
{
	const text = (hex) => Buffer.from(hex, 'hex').toString('utf8');
	const record = JSON.parse(line);
	const headers = Object.fromEntries(Object.entries(record.headers).map(([name, value]) => [name, text(value)]));
	const bytes = Buffer.from(record.value, 'hex');
	const isText = /json|text|xml/.test(headers['content-type']);
	const value = isText ? bytes.toString('utf8') : bytes;

	try
	{
		const event = Kafka.toEvent({ headers, key: text(record.key), value, body: value });

		event.validate();
		return event.toJSON();
	}
	catch (error)
	{
		return { error: String(error.message) };
	}
}

function serve(portFile, recordFile)
{
	const record = fs.openSync(recordFile, 'a');
	const server = http.createServer((request, response) => {
		const chunks = [];

		request.on('data', (chunk) => chunks.push(chunk));
		request.on('end', () => {
			const body = Buffer.concat(chunks);
			const url = new URL(request.url, 'http://localhost');
			const line = { path: url.pathname, headers: request.headers, body: body.toString('base64') };

			line.verified = verified(url.searchParams.getAll('secret'), request.headers, body);
			try
			{
				line.events = url.searchParams.has('plain') ? [] : events(request.headers, body);
			}
			catch (error)
			{
				line.error = String(error.message);
			}
			fs.writeSync(record, JSON.stringify(line) + '\n');
			response.writeHead(204).end();
		});
	});
	server.listen(0, '127.0.0.1', () => {
		fs.writeFileSync(portFile + '.new', String(server.address().port));
		fs.renameSync(portFile + '.new', portFile);
	});
}

if (process.argv[2] === '--kafka')
	for (const line of fs.readFileSync(0, 'utf8').split('\n').filter((text) => text !== ''))
		console.log(JSON.stringify(ofKafka(line)));
else
	serve(process.argv[2], process.argv[3]);
